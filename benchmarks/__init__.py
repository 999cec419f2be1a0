"""One module a claim; each prints a table and writes JSON below benchmarks/results."""
