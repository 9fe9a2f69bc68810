"""The published data of Robometer: preprocessed caches, archives of them, and repositories of videos."""
