"""Self-contained HTML pages: the report of a training run, and the page of one study."""
