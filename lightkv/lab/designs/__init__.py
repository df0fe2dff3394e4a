"""`lightkv search`: designs are drawn, asked and compared, instead of made by hand."""
