{{/* What several of the optional templates say alike. */}}

{{/* The Service that routes of the API lead to, and what of it: the router's own API has no key and must not be reached. */}}
{{- define "vllm-engine.entry" -}}
{{ include "vllm-engine.fullname" . }}{{ if .Values.router.enabled }}-router{{ end }}
{{- end }}

{{- define "vllm-engine.entryPath" -}}
{{ .Values.router.enabled | ternary "/v1" "/" }}
{{- end }}

{{/* How many GPUs the model takes. */}}
{{- define "vllm-engine.ranks" -}}
{{- with .Values.parallel }}{{ mul (eq (toString .tensor) "auto" | ternary 1 .tensor) .pipeline .data }}{{ end }}
{{- end }}

{{/* Of the pods that have the API. */}}
{{- define "vllm-engine.apiLabels" -}}
{{ include "vllm-engine.selectorLabels" . }}
{{- if .Values.multiNode.enabled }}
leaderworkerset.sigs.k8s.io/worker-index: "0"
{{- end }}
{{- end }}

{{/* Not the name of a Service: the controller makes a headless one of the set's own name. 48 characters, since a StatefulSet for
each group adds its number, and a hash to it for a label. */}}
{{- define "vllm-engine.groupsName" -}}
{{ include "vllm-engine.fullname" . | trunc 42 | trimSuffix "-" }}-nodes
{{- end }}

{{- define "vllm-engine.routerLabels" -}}
app.kubernetes.io/name: {{ include "vllm-engine.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: router
{{- end }}

{{/* What is scaled. */}}
{{- define "vllm-engine.scaleTarget" -}}
{{- if .Values.multiNode.enabled -}}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
name: {{ include "vllm-engine.groupsName" . }}
{{- else -}}
apiVersion: apps/v1
kind: {{ .Values.workload.kind }}
name: {{ include "vllm-engine.fullname" . }}
{{- end }}
{{- end }}

{{/* Contradictions of optional values. */}}
{{- define "vllm-engine.contradictions.optional" -}}
{{- range $key := list "ingress" "httpRoute" }}
{{- $route := index $.Values $key }}
{{- if and $route.enabled (not $route.allowWithoutKeys) (not (include "vllm-engine.hasKeys" $)) }}
{{ $key }}: it would open the model to everybody; set apiKeys.existingSecret, or {{ $key }}.allowWithoutKeys=true
{{- end }}
{{- end }}
{{- with .Values.service }}
{{- if and (ne .type "ClusterIP") (not .allowWithoutKeys) (not (include "vllm-engine.hasKeys" $)) }}
service.type: {{ .type }} would open the model to everybody; set apiKeys.existingSecret, or service.allowWithoutKeys=true
{{- end }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
httpRoute.parentRefs: no Gateway is named
{{- end }}
{{- if and .Values.inferencePool.enabled (not .Values.inferencePool.endpointPicker.name) }}
inferencePool.endpointPicker.name: an InferencePool needs the Service of an endpoint picker
{{- end }}
{{- if and .Values.inferencePool.enabled .Values.tls.existingSecret }}
inferencePool: Gateways and endpoint pickers speak plain HTTP to pods; remove tls.existingSecret
{{- end }}
{{- if and .Values.hpa.enabled .Values.keda.enabled }}
keda: KEDA makes a HorizontalPodAutoscaler of its own; disable hpa or keda
{{- end }}
{{- range $key := list "hpa" "keda" }}
{{- $scaler := index $.Values $key }}
{{- if and $scaler.enabled (lt (int64 $scaler.maxReplicas) (int64 $scaler.minReplicas)) }}
{{ $key }}.maxReplicas: {{ $scaler.maxReplicas }} is less than {{ $key }}.minReplicas, {{ $scaler.minReplicas }}
{{- end }}
{{- end }}
{{- if and .Values.router.enabled .Values.inferencePool.enabled }}
router: an InferencePool has a picker that chooses pods; disable router or inferencePool
{{- end }}
{{- if and .Values.router.enabled .Values.tls.existingSecret }}
router: vllm-router speaks plain HTTP to pods; remove tls.existingSecret
{{- end }}
{{- if and .Values.router.enabled (lt (int64 .Values.shutdown.lameDuckSeconds) 15) }}
shutdown.lameDuckSeconds: the router takes up to 15 s to see that a pod stops; set 15 or more
{{- end }}
{{- if and .Values.multiNode.enabled (not .Values.networkPolicy.enabled) (not .Values.multiNode.allowWithoutNetworkPolicy) }}
networkPolicy: nothing between the nodes of multiNode is authenticated; set networkPolicy.enabled=true, or multiNode.allowWithoutNetworkPolicy=true
{{- end }}
{{- if and .Values.multiNode.enabled (eq .Values.workload.kind "StatefulSet") }}
workload.kind: multiNode makes a LeaderWorkerSet; remove one of them
{{- end }}
{{- if .Values.multiNode.enabled }}
{{- range $name := list "IDLE_STOP_SECONDS" "AUTO_FIT" }}
{{- if not (has (get $.Values.settings $name | toString | lower) (list "" "0" "0.0" "false" "no" "off")) }}
settings.{{ $name }}: it works on one node only; remove it, or disable multiNode
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.multiNode.enabled (ne (toString .Values.parallel.tensor) "auto") (mod (include "vllm-engine.ranks" .) .Values.multiNode.nodes) }}
multiNode.nodes: {{ include "vllm-engine.ranks" . }} GPUs (parallel.tensor, pipeline and data multiplied) cannot be shared equally by {{ .Values.multiNode.nodes }} nodes
{{- end }}
{{- with .Values.keda }}
{{- if and .enabled (not .serverAddress) }}
keda.serverAddress: KEDA needs the URL of Prometheus
{{- end }}
{{- if and .enabled (not .query) (not $.Values.serviceMonitor.enabled) }}
keda.query: its default needs the labels that serviceMonitor.enabled=true gives to metrics; enable that, or set a query
{{- end }}
{{- end }}
{{- end }}
