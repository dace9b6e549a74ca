"""Several engines as one server on Ray Serve: ingresses that speak HTTP, and replicas."""
