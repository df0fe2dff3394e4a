"""A pipeline on a model: sessions, the passes they see, and the reports of them."""
