{{/* Names are fixed: there is one resultsfs in a cluster, as there is one CSI driver of a name. */}}
{{- define "resultsfs.driver" -}}
csi.resultsfs.dev
{{- end }}

{{- define "resultsfs.labels" -}}
app.kubernetes.io/name: resultsfs
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels by which a component's pods are selected; call with a list of context and component. */}}
{{- define "resultsfs.selector" -}}
app.kubernetes.io/name: resultsfs
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "resultsfs.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The ConfigMap's data: the settings as text, the claim's store if there is one. */}}
{{- define "resultsfs.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- if .Values.store.pvc.claimName -}}
{{- $given := get $settings "store" | default "file:///store" -}}
{{- if not (or (eq $given "file:///store") (hasPrefix "file:///store/" $given)) -}}
{{- fail (printf "settings.store is %q and store.pvc.claimName %q: the claim is mounted at /store, so settings.store must be file:///store or a directory below it, or be left out" $given .Values.store.pvc.claimName) -}}
{{- end -}}
{{- $_ := set $settings "store" $given -}}
{{- else if not (get $settings "store") -}}
{{- fail "settings.store is empty: set it to where large results go, for example s3://bucket/prefix, or set store.pvc.claimName" -}}
{{- else if hasPrefix "memory:" (get $settings "store") -}}
{{- fail (printf "settings.store is %q: nodes and controller share no memory; use a bucket or store.pvc.claimName" (get $settings "store")) -}}
{{- else if hasPrefix "file:" (get $settings "store") -}}
{{- fail (printf "settings.store is %q, a directory: it must be the claim named by store.pvc.claimName, for all nodes and the controller must see the same" (get $settings "store")) -}}
{{- end -}}
{{- if ne (get $settings "tekton-namespace" | default .Values.tekton.namespace) .Values.tekton.namespace -}}
{{- fail (printf "settings.tekton-namespace is %q and tekton.namespace %q: set tekton.namespace alone" (get $settings "tekton-namespace") .Values.tekton.namespace) -}}
{{- end -}}
{{- $_ := set $settings "tekton-namespace" .Values.tekton.namespace -}}
{{- range $key, $value := $settings }}
{{ $key }}: {{ include "resultsfs.text" $value | quote }}
{{- end }}
{{- end }}

{{/* A value as text: Helm reads numbers of values files as floats, which print as 1e+06. */}}
{{- define "resultsfs.text" -}}
{{- if kindIs "float64" . -}}
{{- if eq . (floor .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{/* Environment and mounts of whoever speaks to the store. */}}
{{- define "resultsfs.storeEnv" -}}
{{- if .Values.store.caBundle.configMapName }}
- name: AWS_CA_BUNDLE
  value: /etc/resultsfs/store-ca/{{ .Values.store.caBundle.key }}
- name: SSL_CERT_FILE
  value: /etc/resultsfs/store-ca/{{ .Values.store.caBundle.key }}
{{- end }}
{{- end }}

{{- define "resultsfs.storeEnvFrom" -}}
{{- if .Values.store.secretName }}
envFrom:
  - secretRef:
      name: {{ .Values.store.secretName }}
{{- end }}
{{- end }}

{{- define "resultsfs.storeMounts" -}}
{{- if .Values.store.pvc.claimName }}
- name: store
  mountPath: /store
{{- end }}
{{- if .Values.store.caBundle.configMapName }}
- name: store-ca
  mountPath: /etc/resultsfs/store-ca
  readOnly: true
{{- end }}
{{- end }}

{{- define "resultsfs.storeVolumes" -}}
{{- if .Values.store.pvc.claimName }}
- name: store
  persistentVolumeClaim:
    claimName: {{ .Values.store.pvc.claimName }}
{{- end }}
{{- if .Values.store.caBundle.configMapName }}
- name: store-ca
  configMap:
    name: {{ .Values.store.caBundle.configMapName }}
{{- end }}
{{- end }}

{{- define "resultsfs.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "resultsfs.seLinux" -}}
{{- if .Values.node.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml .Values.node.seLinuxOptions | nindent 2 }}
{{- else if .Values.openshift.enabled }}
seLinuxOptions:
  type: spc_t
{{- end }}
{{- end }}

{{/* Which namespaces pods get their volume in. */}}
{{- define "resultsfs.namespaceSelector" -}}
{{- $selector := deepCopy .Values.admission.namespaceSelector -}}
{{- $own := get (include "resultsfs.ownNamespaces" . | fromYaml) "matchExpressions" | first -}}
{{- $_ := set $selector "matchExpressions" (append (get $selector "matchExpressions" | default list) $own) -}}
{{- toYaml $selector }}
{{- end }}

{{/* Everywhere but where the cluster's own pods and ours are. */}}
{{- define "resultsfs.ownNamespaces" -}}
{{- $own := dict "key" "kubernetes.io/metadata.name" "operator" "NotIn" "values" (list "kube-system" .Release.Namespace) -}}
{{- dict "matchExpressions" (list $own) | toYaml }}
{{- end }}
