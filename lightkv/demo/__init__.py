"""The bundled demo: a small trained LVLM and its task, questions about real handwritten digits."""
