"""Training that can be stopped anywhere: from a config to a run and its end."""
