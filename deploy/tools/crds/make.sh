# Prometheus Operator's custom resources, as it publishes them: what a PodMonitor or a PrometheusRule may say.
set -eu
go mod download github.com/prometheus-operator/prometheus-operator
from=$(go list -m -f '{{.Dir}}' github.com/prometheus-operator/prometheus-operator)/example/prometheus-operator-crd
mkdir "$1/crds"
for kind in podmonitors servicemonitors prometheusrules; do
    cp "$from/monitoring.coreos.com_$kind.yaml" "$1/crds/$kind.yaml"
    chmod 644 "$1/crds/$kind.yaml"
done
