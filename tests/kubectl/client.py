"""The Python client of Kubernetes against a cluster: KUBECONFIG names it, the argument is an image with a web server.

Prints one line for each step; fails with what was wrong.
"""

import sys
import time

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

config.load_kube_config()
core = client.CoreV1Api()
image = sys.argv[1]


def step(name, condition, seen):
    if not condition:
        sys.exit(f"{name}: {seen!r}")
    print(name)


version = client.VersionApi().get_code()
step("version", version.major == "1", version)

nodes = core.list_node().items
ready = [c.status for c in nodes[0].status.conditions if c.type == "Ready"]
step("nodes", len(nodes) == 1 and ready == ["True"], nodes)

settings = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="settings"), data={"a": "1", "html": "<&>"})
made = core.create_namespaced_config_map("default", settings)
step("create", made.metadata.uid and made.data["html"] == "<&>", made)
try:
    core.create_namespaced_config_map("default", settings)
    sys.exit("it was created twice")
except ApiException as error:
    step("conflict", error.status == 409 and error.reason == "Conflict", error)
patched = core.patch_namespaced_config_map("settings", "default", {"data": {"a": None, "b": "2"}})
step("patch", patched.data == {"b": "2", "html": "<&>"}, patched.data)
made.data = {"c": "3"}
try:
    core.replace_namespaced_config_map("settings", "default", made)
    sys.exit("an old version was replaced")
except ApiException as error:
    step("stale", error.status == 409 and "the object has been modified" in error.body, error)

pod = client.V1Pod(
    metadata=client.V1ObjectMeta(name="python", labels={"app": "python"}),
    spec=client.V1PodSpec(
        containers=[client.V1Container(name="main", image=image, args=["sh", "-c", "echo hello; exec sleep 1000"])],
        termination_grace_period_seconds=1,
    ),
)
core.create_namespaced_pod("default", pod)
phases = []
watcher = watch.Watch()
for event in watcher.stream(core.list_namespaced_pod, "default", label_selector="app=python", timeout_seconds=120):
    phases.append(event["object"].status.phase)
    if phases[-1] == "Running":
        watcher.stop()
step("watch", phases[-1:] == ["Running"], phases)

for _ in range(600):
    log = core.read_namespaced_pod_log("python", "default")
    if log:
        break
    time.sleep(0.1)
step("log", log == "hello\n", log)

answer = stream(
    core.connect_get_namespaced_pod_exec,
    "python",
    "default",
    command=["sh", "-c", "echo out; echo err >&2; cat /etc/hostname"],
    stdout=True,
    stderr=True,
    stdin=False,
    tty=False,
    _preload_content=False,
)
answer.run_forever(timeout=60)
step("exec", answer.read_stdout() == "out\npython\n" and answer.read_stderr() == "err\n" and answer.returncode == 0, answer)

events = core.list_namespaced_event("default", field_selector="involvedObject.name=python").items
reasons = {event.reason for event in events}
step("events", {"Scheduled", "Created", "Started"} <= reasons, reasons)

core.delete_namespaced_pod("python", "default")
for event in watcher.stream(core.list_namespaced_pod, "default", label_selector="app=python", timeout_seconds=120):
    if event["type"] == "DELETED":
        watcher.stop()
try:
    core.read_namespaced_pod("python", "default")
    sys.exit("the pod is still there")
except ApiException as error:
    step("delete", error.status == 404 and 'pods \\"python\\" not found' in error.body, error)
