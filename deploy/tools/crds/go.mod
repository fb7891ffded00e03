module github.com/millirank/millirank/deploy/tools/crds

go 1.26.0

// Nothing is imported from it (`go mod tidy` would drop it): wanted are the files of its custom resource definitions.
require github.com/prometheus-operator/prometheus-operator v0.85.0
