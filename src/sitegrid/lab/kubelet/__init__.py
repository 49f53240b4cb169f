"""The lab's kubelet: one process per lab node that runs real Pod objects with stand-ins for their containers.

Story of a pod: the scheduler binds it, `manager` sees it in its watch and starts a `worker`. The worker gives it an
address (`addresses`), a network namespace (`network`) and the files of its sandbox (`sandbox`); a `runner` per
container starts its `responder` process (`containers`) and asks its `probes`; the `reporter` writes its `status` to
the API server. What must outlive the kubelet is in a `record` on disk, so that a restarted kubelet takes running pods
over. `node` registers the Node and renews its Lease. `listener` and `server` answer the API server: with
pods' `logs`, by running a `command` in a pod, whose streams `remotecommand` carries, and by connecting to a pod's
ports (`portforward` over `spdy`).

What it deliberately does not do: run images, their commands or hooks, mount volumes.
"""
