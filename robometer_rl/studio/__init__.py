"""A studio in the browser: recordings are scored, compared, browsed and labelled (docs/studio.md; extra ``ui``)."""
