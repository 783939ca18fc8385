"""Other people's results: their tables and recordings as data, each with its known faults.

`recordings` reads and writes the seed CSV format, `sources` holds what is bundled, `reanalysis`
puts recordings through our statistics, `page` and `pictures` show it. Nothing here knows MLflow.
"""
