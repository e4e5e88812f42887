"""Pages and charts that can be opened without a network: the base of the report and of the viewer."""
