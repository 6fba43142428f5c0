{{/* The pod template of every workload: metadata and spec. */}}
{{- define "vllm-engine.podTemplate" -}}
metadata:
  labels:
    {{- include "vllm-engine.selectorLabels" . | nindent 4 }}
    {{- $pool := .Values.inferencePool.enabled | ternary .Values.inferencePool.podLabels dict }}
    {{- with merge (deepCopy .Values.podLabels) $pool .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := dict }}
  {{- if and .Values.prometheusAnnotations (not .Values.serviceMonitor.enabled) }}
  {{- $annotations = dict "prometheus.io/scrape" "true" "prometheus.io/port" "8001" }}
  {{- end }}
  {{- with .Values.hfToken.value }}
  {{- $_ := set $annotations "checksum/hf-token" (sha256sum .) }}
  {{- end }}
  {{- with merge (deepCopy .Values.podAnnotations) $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- if or .Values.serviceAccount.create .Values.serviceAccount.name }}
  serviceAccountName: {{ include "vllm-engine.serviceAccountName" . | quote }}
  {{- end }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "vllm-engine.grace" . }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "vllm-engine.podSecurityContext" . | nindent 4 }}
  {{- range $key := list "priorityClassName" "runtimeClassName" "schedulerName" }}
  {{- with index $.Values $key }}
  {{ $key }}: {{ . | quote }}
  {{- end }}
  {{- end }}
  {{- range $key := list "nodeSelector" "affinity" "tolerations" "initContainers" }}
  {{- with index $.Values $key }}
  {{ $key }}: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range .Values.topologySpreadConstraints }}
    {{- $own := dict "labelSelector" (dict "matchLabels" (include "vllm-engine.selectorLabels" $ | fromYaml)) }}
    - {{ toYaml (hasKey . "labelSelector" | ternary . (merge (deepCopy .) $own)) | nindent 6 | trim }}
    {{- end }}
  {{- end }}
  containers:
    - {{ include "vllm-engine.container" . | nindent 6 | trim }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "vllm-engine.volumes" . | trim | nindent 4 }}
{{- end }}

{{/* The engine's container. */}}
{{- define "vllm-engine.container" -}}
name: vllm-engine
image: {{ include "vllm-engine.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
{{- with .Values.extraArgs }}
args:
  {{- prepend . "serve" | toYaml | nindent 2 }}
{{- end }}
env:
  {{- include "vllm-engine.env" . | trim | nindent 2 }}
{{- with .Values.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: http, containerPort: 8000}
  - {name: health, containerPort: 8001}
startupProbe:
  httpGet: {path: /livez, port: health}
  {{- toYaml .Values.probes.startup | nindent 2 }}
livenessProbe:
  httpGet: {path: /livez, port: health}
  {{- toYaml .Values.probes.liveness | nindent 2 }}
readinessProbe:
  httpGet: {path: /healthz, port: health}
  {{- toYaml .Values.probes.readiness | nindent 2 }}
{{- with .Values.lifecycle }}
lifecycle: {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- include "vllm-engine.resources" . | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  - {name: cache, mountPath: /cache}
  - {name: tmp, mountPath: /tmp}
  - {name: shm, mountPath: /dev/shm}
  {{- if include "vllm-engine.hasKeys" . }}
  - {name: keys, mountPath: /run/secrets/vllm-engine, readOnly: true}
  {{- end }}
  {{- if .Values.tls.existingSecret }}
  - {name: tls, mountPath: /run/secrets/vllm-engine-tls, readOnly: true}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Of GPUs limit and request are one number: https://kubernetes.io/docs/tasks/manage-gpus/scheduling-gpus/. */}}
{{- define "vllm-engine.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- $gpus := include "vllm-engine.gpus" . }}
{{- if ne $gpus "0" }}
{{- range $key := list "requests" "limits" }}
{{- $_ := set $resources $key (set (index $resources $key | default dict) $.Values.gpu.resource (int64 $gpus)) }}
{{- end }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "vllm-engine.volumes" -}}
{{- $cache := include "vllm-engine.cacheKind" . }}
{{- if eq $cache "claim" }}
- name: cache
  persistentVolumeClaim: {claimName: {{ include "vllm-engine.claimName" . | quote }}}
{{- else if eq $cache "hostPath" }}
- name: cache
  hostPath: {{- toYaml .Values.cache.hostPath | nindent 4 }}
{{- else if eq $cache "emptyDir" }}
- name: cache
  emptyDir: {{ omit .Values.cache.emptyDir (empty .Values.cache.emptyDir.sizeLimit | ternary "sizeLimit" "") | toJson }}
{{- end }}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.temporary | quote }}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.sharedMemory | quote }}}
{{- if include "vllm-engine.hasKeys" . }}
- name: keys
  secret:
    secretName: {{ .Values.apiKeys.existingSecret | default (include "vllm-engine.secretName" .) | quote }}
    defaultMode: 0440
    items:
      - {key: {{ empty .Values.apiKeys.existingSecret | ternary "keys" .Values.apiKeys.key | quote }}, path: keys}
{{- end }}
{{- with .Values.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
