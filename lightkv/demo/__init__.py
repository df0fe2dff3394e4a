"""The bundled models, small but really trained, and their task: questions about handwritten digits."""

from lightkv.demo.model import load

__all__ = ["load"]
