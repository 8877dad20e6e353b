"""A work list of a folder's studies in the browser, graded in the background; its libraries are the extra [serve]."""
