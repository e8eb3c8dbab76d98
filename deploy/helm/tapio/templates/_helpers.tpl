{{- define "tapio.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "tapio.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "tapio.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "tapio.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "tapio.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tapio.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tapio.labels" -}}
{{ include "tapio.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "tapio.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "tapio.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "tapio.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- /* A key or a value of TOML: JSON's strings, numbers, booleans and arrays of them are TOML's too. */}}
{{- define "tapio.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}

{{- /* A table of TOML, own values first. Helm's toToml writes whole numbers of a values file as floats, which the agent refuses. */}}
{{- define "tapio.toml" -}}
{{- $path := .path }}
{{- range $key, $value := .table }}
{{- if not (kindIs "map" $value) }}
{{ include "tapio.tomlKey" $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $inner := append $path (include "tapio.tomlKey" $key) }}

[{{ join "." $inner }}]
{{- include "tapio.toml" (dict "path" $inner "table" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* tapio.toml as the chart sets it for a cluster, under what the user has set in `config`. */}}
{{- define "tapio.config" -}}
{{- $sinks := .Values.sinks }}
{{- if .Values.otlp.enabled }}{{ $sinks = append $sinks "otlp" }}{{ end }}
{{- $kubernetes := dict }}
{{- if ne .Values.kubernetes.namePeers "pods" }}{{ $_ := set $kubernetes "name_peers" .Values.kubernetes.namePeers }}{{ end }}
{{- if .Values.kubernetes.nameCronJobs }}{{ $_ := set $kubernetes "name_cronjobs" true }}{{ end }}
{{- if not .Values.kubernetes.enabled }}{{ $kubernetes = dict "enabled" false }}{{ end }}
{{- $config := dict "sinks" $sinks "ebpf_dir" "/opt/tapio/ebpf" "container" (dict "exit_scope" "main") }}
{{- if $kubernetes }}{{ $_ := set $config "kubernetes" $kubernetes }}{{ end }}
{{- $config = mustMergeOverwrite $config (deepCopy .Values.config) }}
{{- trim (include "tapio.toml" (dict "path" list "table" $config)) }}
{{- end }}

{{- define "tapio.resourceAttributes" -}}
{{- $attributes := deepCopy .Values.otlp.resourceAttributes }}
{{- if .Values.clusterName }}{{ $_ := set $attributes "k8s.cluster.name" .Values.clusterName }}{{ end }}
{{- $pairs := list }}
{{- range $key, $value := $attributes }}{{ $pairs = append $pairs (printf "%s=%s" $key ($value | toString | urlquery | replace "+" "%20")) }}{{ end }}
{{- join "," $pairs }}
{{- end }}

{{- define "tapio.priorityClassName" -}}
{{- ternary (include "tapio.fullname" .) .Values.priorityClass.name .Values.priorityClass.create }}
{{- end }}

{{/* The labels that the dashboards and alerts go by: the attributes host.name and k8s.cluster.name. */}}
{{- define "tapio.relabelings" -}}
- {targetLabel: job, replacement: tapio} # by which the alerts know the agents, whatever the release is called
- {sourceLabels: [__meta_kubernetes_pod_node_name], targetLabel: host_name}
{{- if .Values.clusterName }}
- {targetLabel: k8s_cluster_name, replacement: {{ .Values.clusterName | quote }}}
{{- end }}
{{- end }}
