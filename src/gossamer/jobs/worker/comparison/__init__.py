"""The work of a job that compares methods, and how it tells of many runs as if they were one."""
