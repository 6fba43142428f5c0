{{/* Contradictions between values, which the schema cannot put into a sentence. Each line of `vllm-engine.contradictions` is
one; an optional template adds its own in a template `vllm-engine.contradictions.NAME`, included below. */}}
{{- define "vllm-engine.validate" -}}
{{- with printf "%s\n%s" (include "vllm-engine.contradictions" .) (include "vllm-engine.contradictions.optional" .) | trim }}
{{- fail (printf "\n%s" .) }}
{{- end }}
{{- end }}

{{- define "vllm-engine.contradictions" -}}
{{- $claims := eq (include "vllm-engine.cacheKind" .) "claim" }}
{{- $many := or (gt (int64 .Values.replicas) 1) (include "vllm-engine.autoscaled" .) }}
{{- if and $claims $many (not .Values.cache.existingClaim) (not (has "ReadWriteMany" .Values.cache.accessModes)) }}
cache: several replicas cannot share a claim of {{ join ", " .Values.cache.accessModes }}; set cache.accessModes=[ReadWriteMany], or workload.kind=StatefulSet for a claim each
{{- end }}
{{- if and .Values.cache.existingClaim (ne .Values.cache.type "persistentVolumeClaim") }}
cache.existingClaim: it is not used with cache.type={{ .Values.cache.type }}; remove one of them
{{- end }}
{{- if and (eq .Values.cache.type "hostPath") (not .Values.cache.hostPath.path) }}
cache.hostPath.path: cache.type=hostPath needs a folder of the node
{{- end }}
{{- if and .Values.hfToken.value .Values.hfToken.existingSecret }}
hfToken: value and existingSecret are both set; remove one of them
{{- end }}
{{- if and .Values.apiKeys.keys .Values.apiKeys.existingSecret }}
apiKeys: keys and existingSecret are both set; remove one of them
{{- end }}
{{- if and .Values.service.nodePort (eq .Values.service.type "ClusterIP") }}
service.nodePort: it needs service.type=NodePort or LoadBalancer
{{- end }}
{{- $gpus := include "vllm-engine.gpus" . }}
{{- $wanted := div (include "vllm-engine.ranks" .) (.Values.multiNode.enabled | ternary .Values.multiNode.nodes 1) }}
{{- if eq $gpus "auto" }}
gpu.count: parallel.tensor=auto needs the number of GPUs
{{- else if and (ne $gpus "0") (ne (toString .Values.parallel.tensor) "auto") (lt (int64 $gpus) $wanted) }}
gpu.count: {{ $gpus }} is less than the {{ $wanted }} that parallel asks of each pod
{{- end }}
{{- $set := include "vllm-engine.variables" . | fromJson }}
{{- range .Values.extraEnv }}
{{- if or (hasKey $set .name) (has .name (list "HF_TOKEN" "API_KEYS" "PORT" "HOST" "CACHE_DIR")) }}
extraEnv: the chart sets {{ .name }}, or has a value for it; see the table of docs/deploy/kubernetes.md
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
{{- $flag := regexFind "^--[a-zA-Z0-9_-]+" . | replace "_" "-" }}
{{- if has $flag (list "--host" "--port" "--health-port" "--cache-dir" "--lame-duck-seconds" "--drain-timeout-seconds" "--api-key" "--api-keys" "--hf-token") }}
extraArgs: {{ $flag }} is the chart's own, or a secret; see the table of docs/deploy/kubernetes.md
{{- end }}
{{- end }}
{{- end }}

{{/* One engine on its GPU and its claim stops before the next starts. Several are replaced one by one: a surge would need a
free GPU. */}}
{{- define "vllm-engine.strategy" -}}
{{- if .Values.workload.updateStrategy }}
{{- toYaml .Values.workload.updateStrategy }}
{{- else if and (le (int64 .Values.replicas) 1) (not (include "vllm-engine.autoscaled" .)) }}
{{- toYaml (dict "type" "Recreate") }}
{{- else }}
{{- toYaml (dict "type" "RollingUpdate" "rollingUpdate" (dict "maxSurge" 0 "maxUnavailable" 1)) }}
{{- end }}
{{- end }}
