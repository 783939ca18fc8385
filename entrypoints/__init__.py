"""Commands: the only place where measurement, frameworks, models, tracking and analysis meet."""
