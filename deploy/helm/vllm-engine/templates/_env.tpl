{{/* What the chart itself sets, as a JSON object from a variable's name to its value. An optional template that needs another
setting adds it here; what the user gives in `settings` wins. */}}
{{- define "vllm-engine.variables" -}}
{{- $set := dict "MODEL_ID" .Values.model.id "HEALTH_PORT" "8001" "METRICS_PUBLIC" "0" }}
{{- with .Values.model.revision }}{{ $_ := set $set "MODEL_REVISION" . }}{{ end }}
{{- with .Values.model.servedNames }}{{ $_ := set $set "SERVED_MODEL_NAME" (join "," .) }}{{ end }}
{{- with .Values.model.maxLength }}{{ $_ := set $set "MAX_MODEL_LEN" (include "vllm-engine.scalar" .) }}{{ end }}
{{- if ne (toString .Values.parallel.tensor) "1" }}
{{- $_ := set $set "TENSOR_PARALLEL" (include "vllm-engine.scalar" .Values.parallel.tensor) }}
{{- end }}
{{- range $key := list "pipeline" "data" }}
{{- if gt (int64 (index $.Values.parallel $key)) 1 }}
{{- $_ := set $set (printf "%s_PARALLEL" (upper $key)) (include "vllm-engine.scalar" (index $.Values.parallel $key)) }}
{{- end }}
{{- end }}
{{- if .Values.multiNode.enabled }}
{{- /* LeaderWorkerSet puts these before the container's own variables, which may refer to them. */}}
{{- $set = merge $set (dict "NODES" "$(LWS_GROUP_SIZE)" "NODE_RANK" "$(LWS_WORKER_INDEX)" "HEAD_ADDRESS" "$(LWS_LEADER_ADDRESS)") }}
{{- with .Values.multiNode.interface }}
{{- $set = merge $set (dict "NCCL_SOCKET_IFNAME" . "GLOO_SOCKET_IFNAME" .) }}
{{- end }}
{{- end }}
{{- $_ := set $set "LAME_DUCK_SECONDS" (include "vllm-engine.scalar" .Values.shutdown.lameDuckSeconds) }}
{{- $_ := set $set "DRAIN_TIMEOUT_SECONDS" (include "vllm-engine.scalar" .Values.shutdown.drainTimeoutSeconds) }}
{{- if include "vllm-engine.hasKeys" . }}{{ $_ := set $set "API_KEYS_FILE" "/run/secrets/vllm-engine/keys" }}{{ end }}
{{- if .Values.tls.existingSecret }}
{{- $_ := set $set "TLS_CERT_FILE" "/run/secrets/vllm-engine-tls/tls.crt" }}
{{- $_ := set $set "TLS_KEY_FILE" "/run/secrets/vllm-engine-tls/tls.key" }}
{{- end }}
{{- if .Values.inferencePool.enabled }}{{ $_ := set $set "METRICS_PUBLIC" "1" }}{{ end }}
{{- range $name, $value := .Values.settings }}{{ $_ := set $set $name (include "vllm-engine.scalar" $value) }}{{ end }}
{{- toJson $set }}
{{- end }}

{{- define "vllm-engine.env" -}}
{{- range $name, $value := include "vllm-engine.variables" . | fromJson }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- if or .Values.hfToken.value .Values.hfToken.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .Values.hfToken.existingSecret | default (include "vllm-engine.secretName" .) | quote }}
      key: {{ empty .Values.hfToken.existingSecret | ternary "hf-token" .Values.hfToken.key | quote }}
      {{- if .Values.hfToken.optional }}
      optional: true
      {{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
