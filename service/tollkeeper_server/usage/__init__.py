"""Who uses what: counted in memory, kept in buckets of time, and watched for the unusual."""
