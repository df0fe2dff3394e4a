#!/usr/bin/env bash
# Everything that wants a GPU, in one command, on a machine that has torch, a CUDA device and no index.
#
#   benchmarks/gpu_check.sh [--out runs/gpu] [--wheels .gpu-wheels] [--seconds 420] [--only PART …] [--toy]
#
# It installs the wheels that `make gpu-wheels` brought, and lightkv from this checkout, into a folder of
# its own beside the machine's torch, which it leaves as it is; nothing is installed where there are no
# wheels, so that lightkv must be there already. Then `gpu_check.py` runs the parts (its head lists them)
# and writes gpu.md and gpu.json after each. PYTHON names the Python that has torch (python3 if unset).
# The exit status is 1 if a part failed, was cut or had no time left; a part that the machine lacks something for is named.
set -euo pipefail
started=$(date +%s)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
wheels=$root/.gpu-wheels
toy=0
arguments=()
while (($#)); do
    case $1 in
        --wheels) wheels=$2 && shift 2 ;;
        --wheels=*) wheels=${1#*=} && shift ;;
        *)
            [[ $1 == --toy ]] && toy=1
            arguments+=("$1") && shift
            ;;
    esac
done

"$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' || {
    echo "gpu_check: $python has no torch; name the Python that has it: PYTHON=/path/to/python $0" >&2
    exit 2
}
((toy)) || "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu_check: the torch of $python sees no CUDA device; --toy runs the same parts at toy sizes" \
        "without one" >&2
    exit 2
}
path=$root
if compgen -G "$wheels/*.whl" >/dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    pip=("$python" -m pip --disable-pip-version-check install --quiet --no-index --no-deps --no-compile
        --no-warn-conflicts --root-user-action ignore --target "$site")
    "${pip[@]}" "$wheels"/*.whl || {
        echo "gpu_check: the wheels do not fit $("$python" --version 2>&1); fill the folder for that" \
            "version: make gpu-wheels GPU_PYTHON=3.x" >&2
        exit 2
    }
    # lightkv finds its own strategies through the metadata of an installed package. It is built from a
    # copy: what setuptools leaves behind would stand beside the sources and grow old there.
    mkdir "$site/.source"
    cp -r "$root"/{pyproject.toml,README.md,LICENSE,lightkv} "$site/.source"
    PYTHONPATH=$site "${pip[@]}" --upgrade --no-build-isolation "$site/.source"
    path=$root:$site
fi
PYTHONPATH=$path "$python" -c 'import importlib.metadata as m; m.distribution("lightkv")' 2>/dev/null || {
    echo "gpu_check: lightkv is not installed for $python, and $wheels holds no wheels; fill it where" \
        "there is an index: make gpu-wheels" >&2
    exit 2
}
status=0
PYTHONPATH=$path "$python" "$root/benchmarks/gpu_check.py" --started "$started" \
    ${arguments[@]+"${arguments[@]}"} || status=$?
exit "$status"
