"""A classifier that completes the parameters of an impedance circuit, with the residual that it has; after tkpepper15/nei-viz-project."""
