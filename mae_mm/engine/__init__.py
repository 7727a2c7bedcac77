"""From a config to a training that can be stopped and resumed at any iteration."""
