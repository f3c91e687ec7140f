"""How calibration chooses the range of an activation; the names alone, which need no other package."""

METHODS = ('minmax', 'average', 'percentile', 'histogram')
PERCENTILE = 99.99  # of the values that a range holds, by default
