"""Why an image was flagged: its neurons, its pixels, and examples beside it."""
