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
{{- if and (eq $gpus "0") (gt (int64 .Values.parallel.pipeline) 1) }}
parallel.pipeline: vLLM's CPU build fails with it; use parallel.tensor
{{- end }}
{{- $set := keys (include "vllm-engine.variables" . | fromJson) (dict "HF_TOKEN" "") | concat (include "vllm-engine.ownSettings" . | splitList " ") }}
{{- range .Values.extraEnv }}
{{- if has .name $set }}
extraEnv: {{ .name }} is set by the chart, or a secret, or in settings; see the table of docs/deploy/kubernetes.md
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
{{- $flag := regexFind "^--?[a-zA-Z0-9_-]+" . | replace "_" "-" }}
{{- $setting := trimPrefix "--" $flag | replace "-" "_" | upper }}
{{- if or (has $setting (include "vllm-engine.ownSettings" $ | splitList " ")) (has $flag (include "vllm-engine.ownFlags" $ | splitList " ")) }}
extraArgs: {{ $flag }} is set by the chart, or a secret; see the table of docs/deploy/kubernetes.md
{{- end }}
{{- end }}
{{- end }}

{{/* Settings that have a value of their own or that ports, volumes and the image fix: tools/chart/program_settings.py. */}}
{{- define "vllm-engine.ownSettings" -}}
API_KEYS API_KEYS_FILE BUILD_SHA BUILD_TIME CACHE_DIR DATA_PARALLEL DRAIN_TIMEOUT_SECONDS ENABLE_SSHD ENGINE_PYTHON HEAD_ADDRESS HEALTH_PORT HF_TOKEN LAME_DUCK_SECONDS MAX_MODEL_LEN MODEL_ID MODEL_REVISION NODES NODE_RANK PIPELINE_PARALLEL PORT PUBLIC_KEY SERVED_MODEL_NAME SSH_PORT TENSOR_PARALLEL TERMINATION_LOG TLS_CERT_FILE TLS_KEY_FILE VLLM_EXTRA_ARGS
{{- end }}

{{/* vLLM's own names for them. */}}
{{- define "vllm-engine.ownFlags" -}}
--tensor-parallel-size -tp --pipeline-parallel-size -pp --data-parallel-size -dp --nnodes --node-rank -n -r --master-addr --model --revision --api-key --ssl-certfile --ssl-keyfile
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
