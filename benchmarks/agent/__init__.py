"""What a node pays: kube-proxy straight at the API server against kube-proxy behind the agent.

Both run on a real API server with a thousand units, one after the other in one lab. `world.py` makes the objects,
`stage.py` is the lab, `inside.py` looks around in a node, `meter.py` reads a process, `measure.py` takes the figures.
"""
