"""Objects and light curves of an alerce_spark server in a TOM."""
