{{/* The name of every resource: the release's, with "midrib" unless it contains that. */}}
{{- define "midrib.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "midrib" $name) }}{{ $name = printf "%s-midrib" $name }}{{ end -}}
{{- $name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{/* The labels that select this release's pods. */}}
{{- define "midrib.selector" -}}
app.kubernetes.io/name: midrib
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The labels of every resource. */}}
{{- define "midrib.labels" -}}
{{ include "midrib.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.Version | quote }}
helm.sh/chart: {{ printf "midrib-%s" .Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "midrib.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "midrib.name" .) "default" .Values.serviceAccount.create) -}}
{{- end }}

{{- define "midrib.claim" -}}
{{- .Values.modelCache.existingClaim | default (printf "%s-models" (include "midrib.name" .)) -}}
{{- end }}

{{/* Whether a StatefulSet makes a claim for each pod. */}}
{{- define "midrib.claimPerPod" -}}
{{- if and .Values.modelCache.enabled (eq .Values.kind "StatefulSet") (not .Values.modelCache.existingClaim) }}true{{ end -}}
{{- end }}

{{- define "midrib.claimSpec" -}}
accessModes: [{{ .Values.modelCache.accessMode | default (ternary "ReadWriteOnce" "ReadWriteMany" (eq .Values.kind "StatefulSet")) }}]
{{- with .Values.modelCache.storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests: {storage: {{ .Values.modelCache.size }}}
{{- end }}

{{/* The settings as variables; strings as they are, everything else as JSON. */}}
{{- define "midrib.env" -}}
{{- range $name, $value := .Values.settings }}
{{- if not (kindIs "invalid" $value) }}
- name: MIDRIB_{{ upper $name }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
{{- end }}
{{- end }}
{{- if .Values.tokens.secret }}
- name: MIDRIB_TOKENS
  value: /etc/midrib/{{ .Values.tokens.key }}
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

{{/* Fails for values with which the server does not start, or never becomes ready. */}}
{{- define "midrib.check" -}}
{{- if not (or .Values.tokens.secret .Values.tls.secret .Values.settings.insecure) }}
{{- fail "tokens.secret and tls.secret are empty, so that anybody may call: set one of them, or settings.insecure=true" }}
{{- end }}
{{- if .Values.settings.tls_client_ca }}
{{- fail (printf "settings.tls_client_ca is %q, but the kubelet's probes have no certificate: use tokens, or a mesh for mutual TLS" .Values.settings.tls_client_ca) }}
{{- end }}
{{- end }}
