"""Manifests that run Fairlead in a cluster, in front of engines that the config names.

Rule 1: least rights. Fairlead asks nothing of the cluster, so its account has no role and no token; the pod runs as
        nobody, without capabilities, on a file system that it cannot write.
Rule 2: no request is lost when a pod goes: readiness fails first, `drain_delay` bridges the time until nobody sends
        more, `drain` lets answers end, and only then comes the kill.
Rule 3: secrets stay outside: a config with header values becomes a Secret with words to replace, never a ConfigMap.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import replace
from textwrap import indent
from typing import Final

from fairlead import __version__
from fairlead.config.schema import MIB, Backend, Config, Listen
from fairlead.control.exports.contained import ADMIN_PORT, CONFIG_FILE, FILES, FOLDER, Contained, contained
from fairlead.control.exports.secrecy import PLACEHOLDER
from fairlead.control.gate import VARIABLE

EXAMPLE: Final = Config(backends=(Backend(url="http://vllm-0.vllm:8000"), Backend(url="http://vllm-1.vllm:8000")))
DELAY_SECONDS: Final = 5.0  # until every node has taken a pod out of its tables
SPARE_SECONDS: Final = 10
USER: Final = 65532
_PROCESS_MIB: Final = 512  # for each worker, besides the bodies that it holds
_FIRST_FREE_PORT: Final = 1024
_ALL_PORTS: Final = "net.ipv4.ip_unprivileged_port_start"

_HEAD: Final = """\
# Fairlead in a cluster, written by `fairlead export kubernetes`. Look it through, then: kubectl apply -f THIS_FILE
#
# Image: fairlead:{version} stands for one that you build and push (`fairlead export compose` has the few lines).
# Once, before it is applied, the token for changes by the admin API:
#   kubectl create secret generic fairlead-admin --from-literal=token="$(openssl rand -hex 32)"
"""

_ACCOUNT: Final = """\
# No Role and no RoleBinding: engines stand in the config by name, and Fairlead asks nothing of the cluster's API.
apiVersion: v1
kind: ServiceAccount
metadata:
  name: fairlead
  labels: {app.kubernetes.io/name: fairlead}
automountServiceAccountToken: false
"""

_DISRUPTION: Final = """\
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: fairlead
  labels: {app.kubernetes.io/name: fairlead}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {app.kubernetes.io/name: fairlead}
"""


def render(config: Config | None) -> str:
    """The manifests for `config`, or for two engines of a StatefulSet called vllm."""
    known = config or EXAMPLE
    if not known.drain_delay:
        known = replace(known, drain_delay=DELAY_SECONDS)
    made = contained(known, lambda name: f"{PLACEHOLDER}-{name}")
    parts = [_ACCOUNT, _config(made), _deployment(made), _service(made.config), _DISRUPTION, _policy(made.config)]
    return "\n".join(_head(made, config is None)) + "\n" + "---\n".join(parts)


def _head(made: Contained, is_example: bool) -> Iterator[str]:
    yield _HEAD.format(version=__version__).rstrip("\n")
    if made.files:
        yield "# and the files that the config names:"
        names = (f"--from-file={inside.rpartition('/')[2]}={shlex.quote(path)}" for path, inside in made.files.items())
        yield "#   kubectl create secret generic fairlead-files " + " ".join(names)
    if made.secrets:
        yield f"# The config holds secrets. Put each in the place of its word (it begins with {PLACEHOLDER}):"
        yield from (f"#   {name}: {what}" for name, what in made.secrets.items())
    if is_example:
        yield "# The engines are an example: give your config file to `fairlead export kubernetes`."
    yield from (f"# {note}" for note in dict.fromkeys(made.notes))


def _config(made: Contained) -> str:
    port = made.config.admin.port
    where = "" if port == ADMIN_PORT else f" --admin http://127.0.0.1:{port}"
    kind, field = ("Secret", "stringData") if made.secrets else ("ConfigMap", "data")
    return f"""\
apiVersion: v1
kind: {kind}
metadata:
  name: fairlead
  labels: {{app.kubernetes.io/name: fairlead}}
{field}:
  # A change of it reaches the pod after a minute or so; then: kubectl exec deploy/fairlead -- fairlead reload{where}
  # (with several pods, `kubectl rollout restart deploy/fairlead` takes it to all of them and loses no request)
  fairlead.yaml: |
{indent(made.text, "    ")}"""


def _deployment(made: Contained) -> str:
    config = made.config
    memory = config.limits.body_memory // MIB + _PROCESS_MIB * config.workers
    ports = "\n".join(
        f"            - {{name: {name}, containerPort: {listen.address.port}}}" for name, listen in _ports(config)
    )
    volume = "secret: {secretName: fairlead}" if made.secrets else "configMap: {name: fairlead}"
    mounts = [f"            - {{name: config, mountPath: {FOLDER}, readOnly: true}}"]
    volumes = [f"        - {{name: config, {volume}}}"]
    if made.files:
        mounts.append(f"            - {{name: files, mountPath: {FILES}, readOnly: true}}")
        volumes.append("        - {name: files, secret: {secretName: fairlead-files}}")
    low = any(listen.address.port < _FIRST_FREE_PORT for _, listen in _ports(config))
    sysctls = f'\n        sysctls: [{{name: {_ALL_PORTS}, value: "0"}}]  # ports below 1024' if low else ""
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: fairlead
  labels: {{app.kubernetes.io/name: fairlead}}
spec:
  # Each pod sees its own part of the traffic and learns from it alone; one is best for cache hits, two survive a node.
  replicas: 2
  strategy:
    rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}
  selector:
    matchLabels: {{app.kubernetes.io/name: fairlead}}
  template:
    metadata:
      labels: {{app.kubernetes.io/name: fairlead}}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "{config.admin.port}"
    spec:
      serviceAccountName: fairlead
      automountServiceAccountToken: false
      enableServiceLinks: false
      # drain_delay ({config.drain_delay:g} s) and drain ({config.drain:g} s), and some more. No preStop: told to stop,
      # Fairlead fails its readiness at once and goes on serving for drain_delay.
      terminationGracePeriodSeconds: {math.ceil(config.drain + config.drain_delay) + SPARE_SECONDS}
      securityContext:
        runAsNonRoot: true
        runAsUser: {USER}
        runAsGroup: {USER}
        fsGroup: {USER}  # so that it can read what is mounted
        seccompProfile: {{type: RuntimeDefault}}{sysctls}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{app.kubernetes.io/name: fairlead}}
      containers:
        - name: fairlead
          image: fairlead:{__version__}
          command: [fairlead, serve, --config, {CONFIG_FILE}]
          env:
            - name: {VARIABLE}
              valueFrom: {{secretKeyRef: {{name: fairlead-admin, key: token}}}}
          ports:
{ports}
            - {{name: admin, containerPort: {config.admin.port}}}
          startupProbe:
            httpGet: {{path: /healthz, port: admin}}
            periodSeconds: 2
            failureThreshold: 30
          livenessProbe:
            httpGet: {{path: /healthz, port: admin}}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          # ready: some backend can serve, and it is not draining
          readinessProbe:
            httpGet: {{path: /readyz, port: admin}}
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 2
          resources:
            requests: {{cpu: "{config.workers}", memory: {_PROCESS_MIB // 2 * config.workers}Mi}}
            # limits.body_memory, and {_PROCESS_MIB} MiB for each worker
            limits: {{memory: {memory}Mi}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: [ALL]}}
          volumeMounts:
{chr(10).join(mounts)}
            - {{name: tmp, mountPath: /tmp}}
      volumes:
{chr(10).join(volumes)}
        - {{name: tmp, emptyDir: {{medium: Memory, sizeLimit: 16Mi}}}}
"""


def _service(config: Config) -> str:
    ports = "\n".join(
        f"    - {{name: {name}, port: {listen.address.port}, targetPort: {name}"
        f"{', appProtocol: https' if listen.tls is not None else ''}}}"
        for name, listen in _ports(config)
    )
    return f"""\
# For clients: the data port alone. The admin API: kubectl port-forward deploy/fairlead {config.admin.port}
apiVersion: v1
kind: Service
metadata:
  name: fairlead
  labels: {{app.kubernetes.io/name: fairlead}}
spec:
  selector: {{app.kubernetes.io/name: fairlead}}
  ports:
{ports}
"""


def _policy(config: Config) -> str:
    ports = ", ".join(f"{{port: {name}}}" for name, _ in _ports(config))
    return f"""\
# Clients reach the data port; the admin port is for Prometheus (in the namespace `monitoring`, say) and probes alone.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: fairlead
  labels: {{app.kubernetes.io/name: fairlead}}
spec:
  podSelector:
    matchLabels: {{app.kubernetes.io/name: fairlead}}
  policyTypes: [Ingress]
  ingress:
    - ports: [{ports}]
    - from:
        - namespaceSelector:
            matchLabels: {{kubernetes.io/metadata.name: monitoring}}
      ports: [{{port: admin}}]
"""


def _ports(config: Config) -> list[tuple[str, Listen]]:
    """A name for each data port."""
    return [("data" if number == 1 else f"data-{number}", each) for number, each in enumerate(config.listen, 1)]
