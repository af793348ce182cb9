{{/* The name of every resource: the release's, with "midrib" unless it contains that. A Service's name has no dots, and
     begins with a letter. */}}
{{- define "midrib.name" -}}
{{- $name := .Release.Name | replace "." "-" -}}
{{- if regexMatch "^[0-9]" $name }}{{ $name = printf "midrib-%s" $name }}{{ end -}}
{{- if not (contains "midrib" $name) }}{{ $name = printf "%s-midrib" $name }}{{ end -}}
{{- $name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{/* The labels that select this release's pods. */}}
{{- define "midrib.selector" -}}
app.kubernetes.io/name: midrib
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* The labels of every resource. */}}
{{- define "midrib.labels" -}}
{{ include "midrib.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.Version | replace "+" "_" | trunc 63 | trimAll "-_." | quote }}
helm.sh/chart: {{ printf "midrib-%s" .Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "midrib.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "midrib.name" .) "default" .Values.serviceAccount.create) | quote -}}
{{- end }}

{{- define "midrib.claim" -}}
{{- .Values.modelCache.existingClaim | default (printf "%s-models" (include "midrib.name" .)) | quote -}}
{{- end }}

{{/* Whether a StatefulSet makes a claim for each pod. */}}
{{- define "midrib.claimPerPod" -}}
{{- if and .Values.modelCache.enabled (eq .Values.kind "StatefulSet") (not .Values.modelCache.existingClaim) }}true{{ end -}}
{{- end }}

{{- define "midrib.claimSpec" -}}
accessModes: [{{ .Values.modelCache.accessMode | default (ternary "ReadWriteOnce" "ReadWriteMany" (eq .Values.kind "StatefulSet")) }}]
{{- with .Values.modelCache.storageClassName }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests: {storage: {{ .Values.modelCache.size }}}
{{- end }}

{{/* The settings as variables; strings as they are, everything else as JSON. Kubernetes would expand $(NAME), and reads $$
     as $. */}}
{{- define "midrib.env" -}}
{{- range $name, $value := .Values.settings }}
{{- if not (kindIs "invalid" $value) }}
- name: MIDRIB_{{ upper $name }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | replace "$" "$$" | quote }}
{{- end }}
{{- end }}
{{- if .Values.tokens.secret }}
- name: MIDRIB_TOKENS
  value: {{ printf "/etc/midrib/%s" .Values.tokens.key | quote }}
{{- end }}
{{- if .Values.tls.secret }}
- name: MIDRIB_TLS_CERTIFICATE
  value: /etc/midrib-tls/tls.crt
- name: MIDRIB_TLS_KEY
  value: /etc/midrib-tls/tls.key
{{- end }}
{{- end }}

{{/* Whether the pod is ready: the kubelet's gRPC probe does not speak TLS, so that the probes use HTTPS with it. */}}
{{- define "midrib.readyProbe" -}}
{{- if .Values.tls.secret -}}
httpGet: {path: /readyz, port: http, scheme: HTTPS}
{{- else -}}
grpc: {port: {{ .Values.settings.port }}}
{{- end }}
{{- end }}
