"""The server: a saved guard behind HTTP, with a record of what it said and pages to review it."""
