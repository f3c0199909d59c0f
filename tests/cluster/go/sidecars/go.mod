// The two sidecars of a CSI driver, as far as the chart uses them and with the same flags, on the published interfaces of
// Kubernetes and CSI. node-driver-registrar and livenessprobe themselves are published as images: their module paths
// lack the /v2 of their versions, so that no go.mod can require one.
module resultsfs/cluster/sidecars

go 1.24.0

require (
	github.com/container-storage-interface/spec v1.11.0
	google.golang.org/grpc v1.72.2
	k8s.io/kubelet v0.34.4
)

require (
	golang.org/x/net v0.38.0 // indirect
	golang.org/x/sys v0.31.0 // indirect
	golang.org/x/text v0.23.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20250303144028-a0af3efb3deb // indirect
	google.golang.org/protobuf v1.36.5 // indirect
)
