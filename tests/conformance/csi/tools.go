//go:build tools

package csi

import _ "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity"
