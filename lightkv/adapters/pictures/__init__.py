"""From placeholders and picture sizes to views and layouts."""
