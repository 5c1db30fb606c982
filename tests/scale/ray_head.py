"""A Ray cluster for the tests, as neroli starts one: prints its address, ends with its input."""

import sys

from neroli.scale.ray_cluster import RayCluster, RayOptions

with RayCluster(RayOptions()) as cluster:
    print(cluster.ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
