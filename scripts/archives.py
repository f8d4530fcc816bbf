"""Sample archives of made-up clusters, in the layout that the Insights Operator uploads.

    python3 scripts/archives.py DIRECTORY      writes one NAME.tar.gz for each cluster

A cluster starts healthy and is then spoiled in one or two ways, so that what the rules say about it can be told from
the function that made it. The names of the rules that hit stand beside each (`EXPECTED`).
"""

import gzip
import io
import json
import sys
import tarfile
import uuid
from pathlib import Path

# When all these archives were gathered: rules that look at the calendar give the same answer every day.
GATHERED = "2025-03-03T08:15:00Z"
GATHERED_SECONDS = 1740989700

# The rule that each cluster is made for, by error key. Empty: a healthy one.
EXPECTED = {
    "shop-eu": [],
    "payments-us": ["MCP_SET_TO_PAUSE", "NODES_MINIMUM_REQUIREMENTS_NOT_MET", "NODE_KUBELET_VERSION"],
    "edge-berlin": ["CONTROL_PLANE_NODE_REPLICAS", "PROMETHEUS_DB_VOLUME_IS_EMPTY"],
    "legacy-dc": ["MASTER_DEFINED_AS_MACHINESETS", "OCP4X_BEYOND_EOL", "OPERATOR_UNMANAGED", "UNSUPPORTED_CNI_PLUGIN"],
    "vsphere-lab": [
        "IMAGE_REGISTRY_MULTIPLE_STORAGE_TYPES",
        "NODE_INSTALLER_DEGRADED",
        "VSPHERE_PROBLEM_DETECTOR_CONTROLLER_SYNCERROR",
    ],
    "campus": ["OCP4X_EOL_APPROACHING", "SAMPLES_FAILED_IMAGE_IMPORT_ERR"],
}

OPERATORS = [
    "authentication",
    "cloud-credential",
    "console",
    "dns",
    "etcd",
    "image-registry",
    "ingress",
    "insights",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "machine-api",
    "machine-config",
    "monitoring",
    "network",
    "openshift-apiserver",
    "openshift-samples",
    "storage",
]


def cluster_id(name):
    """The same UUID for the same name on every machine."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.clusters.example"))


def condition(kind, status, reason="AsExpected", message="All is well"):
    return {
        "type": kind,
        "status": status,
        "lastTransitionTime": "2025-02-27T21:20:38Z",
        "reason": reason,
        "message": message,
    }


class Cluster:
    """The documents of one archive: path to JSON value or text. Starts as a cluster that no rule objects to."""

    def __init__(self, name, version="4.17.18", kubelet="v1.30.10", masters=3, workers=3):
        self.name = name
        self.id = cluster_id(name)
        self.version = version
        self.kubelet = kubelet
        self.files = {}
        self.files["config/id"] = self.id
        self.files["config/version.json"] = {
            "metadata": {"name": "version"},
            "spec": {"clusterID": self.id, "channel": f"stable-{'.'.join(version.split('.')[:2])}"},
            "status": {
                "desired": {"version": version},
                "history": [
                    {
                        "state": "Completed",
                        "startedTime": "2025-02-26T11:02:54Z",
                        "completionTime": "2025-02-26T11:42:56Z",
                        "version": version,
                        "verified": True,
                    }
                ],
                "conditions": [
                    condition("Available", "True", message=f"Done applying {version}"),
                    condition("Failing", "False", message=""),
                    condition("Progressing", "False", message=f"Cluster version is {version}"),
                    condition("RetrievedUpdates", "True", message=""),
                ],
            },
        }
        self.files["config/infrastructure.json"] = {
            "metadata": {"name": "cluster"},
            "spec": {"platformSpec": {"type": "AWS"}},
            "status": {
                "infrastructureName": f"{name}-x7k2p",
                "platform": "AWS",
                "platformStatus": {"type": "AWS"},
                "controlPlaneTopology": "HighlyAvailable",
                "infrastructureTopology": "HighlyAvailable",
            },
        }
        self.files["config/network.json"] = {
            "metadata": {"name": "cluster"},
            "spec": {"networkType": "OVNKubernetes"},
            "status": {"clusterNetwork": [{"cidr": "10.128.0.0/14", "hostPrefix": 23}], "networkType": "OVNKubernetes"},
        }
        self.files["config/proxy.json"] = {"metadata": {"name": "cluster"}, "spec": {}, "status": {}}
        claim = {"spec": {"storageClassName": "gp3-csi", "resources": {"requests": {"storage": "100Gi"}}}}
        self.files["config/configmaps/openshift-monitoring/cluster-monitoring-config/config.json"] = {
            "prometheusK8s": {"retention": "15d", "volumeClaimTemplate": claim}
        }
        for operator in OPERATORS:
            self.files[f"config/clusteroperator/{operator}.json"] = {
                "kind": "ClusterOperator",
                "apiVersion": "config.openshift.io/v1",
                "metadata": {"name": operator},
                "spec": {},
                "status": {
                    "conditions": [
                        condition("Available", "True"),
                        condition("Progressing", "False"),
                        condition("Degraded", "False"),
                        condition("Upgradeable", "True"),
                    ],
                    "versions": [{"name": "operator", "version": version}],
                },
            }
        self.files["config/clusteroperator/operator.openshift.io/console/cluster.json"] = {
            "apiVersion": "operator.openshift.io/v1",
            "kind": "Console",
            "name": "cluster",
            "spec": {"managementState": "Managed", "logLevel": "Normal"},
        }
        for pool, count in (("master", masters), ("worker", workers)):
            self.files[f"config/machineconfigpools/{pool}.json"] = {
                "apiVersion": "machineconfiguration.openshift.io/v1",
                "kind": "MachineConfigPool",
                "metadata": {
                    "name": pool,
                    "labels": {f"pools.operator.machineconfiguration.openshift.io/{pool}": ""},
                },
                "spec": {"paused": False},
                "status": {
                    "conditions": [condition("Updated", "True"), condition("Degraded", "False")],
                    "machineCount": count,
                    "readyMachineCount": count,
                    "updatedMachineCount": count,
                    "unavailableMachineCount": 0,
                },
            }
        for number in range(masters):
            self.add_node(f"master-{number}", "master", cpu="8", memory="32827364Ki")
        for number in range(workers):
            self.add_node(f"worker-{number}", "worker", cpu="8", memory="32827364Ki")

    def add_node(self, node, role, cpu, memory, kubelet=None):
        name = f"{node}.{self.name}.example"
        roles = ["master", "control-plane"] if role == "master" else ["worker"]
        self.files[f"config/node/{name}.json"] = {
            "metadata": {
                "name": name,
                "creationTimestamp": "2025-01-07T11:23:18Z",
                "labels": {"kubernetes.io/os": "linux", **{f"node-role.kubernetes.io/{role}": "" for role in roles}},
            },
            "spec": {},
            "status": {
                "capacity": {"cpu": cpu, "memory": memory, "pods": "250"},
                "conditions": [
                    condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory"),
                    condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
                ],
                "nodeInfo": {
                    "kubeletVersion": kubelet or self.kubelet,
                    "containerRuntimeVersion": "cri-o://1.30.9",
                    "operatingSystem": "linux",
                    "architecture": "amd64",
                },
            },
        }

    def nodes(self):
        return sum(path.startswith("config/node/") for path in self.files)

    def operator(self, name, **conditions):
        """Replaces conditions of one cluster operator: `Degraded=(status, reason, message)`."""
        status = self.files[f"config/clusteroperator/{name}.json"]["status"]
        kept = [known for known in status["conditions"] if known["type"] not in conditions]
        status["conditions"] = kept + [condition(kind, *facts) for kind, facts in conditions.items()]

    def tar(self):
        """The archive, unpacked size first."""
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path, value in sorted(self.files.items()):
                add_file(archive, path, value.encode() if isinstance(value, str) else json.dumps(value).encode())
        return plain.getvalue()

    def archive(self):
        # Without a time stamp of its own in the gzip header: the same bytes on every run.
        return gzip.compress(self.tar(), compresslevel=6, mtime=0)


def add_file(archive, path, content):
    member = tarfile.TarInfo(path)
    member.size = len(content)
    member.mtime = GATHERED_SECONDS
    member.mode = 0o640
    archive.addfile(member, io.BytesIO(content))


def shop_eu():
    return Cluster("shop-eu")


def payments_us():
    """Small nodes, one of them left behind by an update, and the pool that would have updated it paused."""
    cluster = Cluster("payments-us", version="4.17.18")
    cluster.add_node("worker-3", "worker", cpu="1", memory="4045780Ki")
    cluster.add_node("worker-4", "worker", cpu="8", memory="32827364Ki", kubelet="v1.30.4")
    cluster.files["config/machineconfigpools/worker.json"]["spec"]["paused"] = True
    return cluster


def edge_berlin():
    """Two control plane nodes, and metrics that are gone with the pod."""
    cluster = Cluster("edge-berlin", version="4.16.33", kubelet="v1.29.11", masters=2, workers=1)
    monitoring = "config/configmaps/openshift-monitoring/cluster-monitoring-config/config.json"
    cluster.files[monitoring] = {"prometheusK8s": {"retention": "24h"}}
    return cluster


def legacy_dc():
    """Out of support, with a network plug-in of its own, an operator switched off and masters in a machine set."""
    cluster = Cluster("legacy-dc", version="4.11.59", kubelet="v1.24.16", workers=6)
    cluster.files["config/network.json"]["spec"]["networkType"] = "Calico"
    cluster.files["config/network.json"]["status"]["networkType"] = "Calico"
    cluster.files["config/clusteroperator/operator.openshift.io/console/cluster.json"]["spec"]["managementState"] = (
        "Unmanaged"
    )
    labels = {
        "machine.openshift.io/cluster-api-machine-role": "master",
        "machine.openshift.io/cluster-api-machine-type": "master",
    }
    cluster.files["machinesets/openshift-machine-api/legacy-dc-masters.json"] = {
        "metadata": {"name": "legacy-dc-masters", "namespace": "openshift-machine-api"},
        "spec": {"replicas": 3, "template": {"metadata": {"labels": labels}}},
        "status": {"replicas": 3, "readyReplicas": 3, "availableReplicas": 3},
    }
    return cluster


def vsphere_lab():
    """A vCenter password that has changed, an installer pod that is gone, a registry with two storages."""
    cluster = Cluster("vsphere-lab")
    status = cluster.files["config/infrastructure.json"]["status"]
    status["platform"] = "VSphere"
    status["platformStatus"]["type"] = "VSphere"
    pod = "vsphere-problem-detector-operator-6d4c9f7b8-zq2lx"
    cluster.files[
        f"conditional/namespaces/openshift-cluster-storage-operator/pods/{pod}"
        "/containers/vsphere-problem-detector-operator/logs/last-100-lines.log"
    ] = (
        "I0303 08:11:02.113402       1 operator.go:121] Checking vCenter vcenter.lab.example\n"
        'E0303 08:11:02.897202       1 base_controller.go:250] "VSphereProblemDetectorController" controller failed '
        'to sync "key", err: failed to connect to vcenter.lab.example: Cannot complete login due to an incorrect user '
        "name or password.\n"
    )
    reason = "NodeInstallerDegraded_InstallerPodFailed"
    cluster.operator("kube-apiserver", Degraded=("True", reason, "installer-7-master-1 was deleted too early"))
    storages = "unable to sync storage configuration: exactly one storage type should be configured at the same time"
    cluster.operator("image-registry", Degraded=("True", "Error", f"Unable to apply resources: {storages}, got 2: [S3 PVC]"))
    return cluster


def campus():
    """Large, healthy but for two image streams, and with a version whose support ends in two months."""
    cluster = Cluster("campus", version="4.14.48", kubelet="v1.27.16", workers=45)
    message = "Samples installed at 4.14.48, with image import failures for these imagestreams: php ruby"
    cluster.operator("openshift-samples", Degraded=("True", "FailedImageImports", message))
    return cluster


def clusters():
    return [shop_eu(), payments_us(), edge_berlin(), legacy_dc(), vsphere_lab(), campus()]


def damaged():
    """Cut off in the middle, as by a client that lost its connection."""
    whole = Cluster("cut-off").archive()
    return whole[: len(whole) // 2]


def bomb():
    """16 KiB that unpack to 16 MiB."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        add_file(archive, "config/id", cluster_id("bomb").encode())
        add_file(archive, "config/metrics", bytes(16 << 20))
    return gzip.compress(plain.getvalue(), compresslevel=9, mtime=0)


def escape():
    """A member that wants to be written outside."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        add_file(archive, "config/id", cluster_id("escape").encode())
        add_file(archive, "config/../../../etc/cron.d/surprise", b"* * * * * root true\n")
    return gzip.compress(plain.getvalue(), mtime=0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for made in clusters():
        Path(sys.argv[1], f"{made.name}.tar.gz").write_bytes(made.archive())
