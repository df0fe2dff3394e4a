"""What a decoder and its compression cost, counted from sizes and layouts."""
