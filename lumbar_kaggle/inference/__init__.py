"""From a bundle and a folder of studies to a submission, and why."""
