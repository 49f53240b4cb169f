"""The central controller: joins kube (I/O) to grid (planning)."""
