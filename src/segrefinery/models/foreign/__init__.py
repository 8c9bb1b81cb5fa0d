"""Networks of other libraries, one file a library: how they are built, and how their checkpoints' names map to ours."""
