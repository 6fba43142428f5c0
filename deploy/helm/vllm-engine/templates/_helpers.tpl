{{/* Names and labels, and what several templates say alike. docs/deploy/kubernetes.md explains the choices. */}}

{{- define "vllm-engine.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 52 characters, so that what is added to it (-headless, -cache, and a StatefulSet's own) stays within 63. */}}
{{- define "vllm-engine.fullname" -}}
{{- $name := include "vllm-engine.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Of the engine's pods and nothing else: selectors cannot be changed later. */}}
{{- define "vllm-engine.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vllm-engine.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: engine
{{- end }}

{{/* Of every object. */}}
{{- define "vllm-engine.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ include "vllm-engine.name" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of what belongs to the engine. */}}
{{- define "vllm-engine.labels" -}}
{{ include "vllm-engine.selectorLabels" . }}
{{ include "vllm-engine.commonLabels" . }}
{{- end }}

{{- define "vllm-engine.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "vllm-engine.fullname" .) "default") }}
{{- end }}

{{/* A number or a switch as the program reads it: YAML's numbers are floats here, which print as 3.3554432e+07. */}}
{{- define "vllm-engine.scalar" -}}
{{- if kindIs "bool" . }}{{ ternary "1" "0" . }}
{{- else if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}{{ int64 . }}
{{- else }}{{ . }}{{ end }}
{{- end }}

{{- define "vllm-engine.gpus" -}}
{{- if not (kindIs "invalid" .Values.gpu.count) }}{{ int64 .Values.gpu.count }}
{{- else if eq (toString .Values.parallel.tensor) "auto" }}auto
{{- else }}{{ div (include "vllm-engine.ranks" .) (.Values.multiNode.enabled | ternary .Values.multiNode.nodes 1) }}{{ end }}
{{- end }}

{{- define "vllm-engine.image" -}}
{{- $tag := .Values.image.tag | default (eq (include "vllm-engine.gpus" .) "0" | ternary "cpu" "cuda") }}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ $tag }}{{ end }}
{{- end }}

{{/* Whether something else than `replicas` says how many pods there are; then the workload does not. */}}
{{- define "vllm-engine.autoscaled" -}}
{{- if or (dig "enabled" false (.Values.hpa | default dict)) (dig "enabled" false (.Values.keda | default dict)) }}true{{ end }}
{{- end }}

{{/* LAME_DUCK_SECONDS + DRAIN_TIMEOUT_SECONDS + 5 s for the last answers, 10 s for the engine and 5 s of margin, and before
them the preStop hook, whose time Kubernetes takes from the same period. */}}
{{- define "vllm-engine.grace" -}}
{{- $hook := int64 (dig "preStop" "sleep" "seconds" 0 .Values.lifecycle) }}
{{- with .Values.shutdown }}
{{- add $hook (int64 .lameDuckSeconds) (int64 .drainTimeoutSeconds) (int64 .extraGraceSeconds) 20 }}
{{- end }}
{{- end }}

{{/* Whether the Service of all pods, ready or not, is wanted: by a StatefulSet, and by what lists replicas itself. */}}
{{- define "vllm-engine.needsHeadless" -}}
{{- if or (eq .Values.workload.kind "StatefulSet") .Values.serviceMonitor.enabled .Values.router.enabled }}true{{ end }}
{{- end }}

{{/* The Secret that is made of values, and what would be in it. */}}
{{- define "vllm-engine.secretName" -}}
{{ include "vllm-engine.fullname" . }}
{{- end }}

{{- define "vllm-engine.hasKeys" -}}
{{- if or .Values.apiKeys.keys .Values.apiKeys.existingSecret }}true{{ end }}
{{- end }}

{{- define "vllm-engine.claimName" -}}
{{ .Values.cache.existingClaim | default (printf "%s-cache" (include "vllm-engine.fullname" .)) }}
{{- end }}

{{/* How the cache is kept: claim (one for all pods), template (one for each), hostPath or emptyDir. */}}
{{- define "vllm-engine.cacheKind" -}}
{{- if ne .Values.cache.type "persistentVolumeClaim" }}{{ .Values.cache.type }}
{{- else if and (or (eq .Values.workload.kind "StatefulSet") .Values.multiNode.enabled) (not .Values.cache.existingClaim) }}template
{{- else }}claim{{ end }}
{{- end }}

{{- define "vllm-engine.claimSpec" -}}
accessModes: {{ toJson .Values.cache.accessModes }}
{{- if not (kindIs "invalid" .Values.cache.storageClass) }}
storageClassName: {{ .Values.cache.storageClass | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .Values.cache.size | quote }}
{{- end }}

{{- define "vllm-engine.podSecurityContext" -}}
{{- $context := .Values.podSecurityContext }}
{{- if .Values.arbitraryUid }}{{ $context = omit $context "runAsUser" "runAsGroup" "fsGroup" "supplementalGroups" }}{{ end }}
{{- toYaml $context }}
{{- end }}
