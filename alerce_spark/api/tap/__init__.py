"""SQL on the lake for everybody: TAP 1.1 of the IVOA. ADQL is parsed, checked, and run by DuckDB in other processes."""
