"""What users do, one file a verb; each returns data and prints nothing."""
