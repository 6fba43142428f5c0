{{/* What several of the optional templates say alike. */}}

{{/* The Service that routes of the API lead to. */}}
{{- define "vllm-engine.entry" -}}
{{ include "vllm-engine.fullname" . }}
{{- end }}

{{/* What is scaled. */}}
{{- define "vllm-engine.scaleTarget" -}}
apiVersion: apps/v1
kind: {{ .Values.workload.kind }}
name: {{ include "vllm-engine.fullname" . }}
{{- end }}

{{/* Contradictions of optional values. */}}
{{- define "vllm-engine.contradictions.optional" -}}
{{- range $key := list "ingress" "httpRoute" }}
{{- $route := index $.Values $key }}
{{- if and $route.enabled (not $route.allowWithoutKeys) (not (include "vllm-engine.hasKeys" $)) }}
{{ $key }}: it would open the model to everybody; set apiKeys.existingSecret, or {{ $key }}.allowWithoutKeys=true
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
{{- with .Values.keda }}
{{- if and .enabled (not .serverAddress) }}
keda.serverAddress: KEDA needs the URL of Prometheus
{{- end }}
{{- if and .enabled (not .query) (not $.Values.serviceMonitor.enabled) }}
keda.query: its default needs the labels that serviceMonitor.enabled=true gives to metrics; enable that, or set a query
{{- end }}
{{- end }}
{{- end }}
