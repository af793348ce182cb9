{{- define "midrib.scheduling" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.gpu.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or .Values.tolerations .Values.gpu.count }}
tolerations:
  {{- if .Values.gpu.count }}
  - {key: {{ .Values.gpu.resource | quote }}, operator: Exists, effect: NoSchedule}
  {{- end }}
  {{- with .Values.tolerations }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end }}

{{- define "midrib.image" -}}
{{- $repository := .Values.image.repository -}}
{{- if .Values.image.digest }}{{ printf "%s@%s" $repository .Values.image.digest }}
{{- else if contains "@" $repository }}{{ $repository }}
{{- else }}{{ printf "%s:%s" $repository (.Values.image.tag | default .Chart.Version) }}{{ end -}}
{{- end }}

{{- define "midrib.container" -}}
image: {{ include "midrib.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve]
env:
  {{- include "midrib.env" . | trim | nindent 2 }}
  {{- $extra := dict }}
  {{- range .Values.extraEnv }}{{ $_ := set $extra .name true }}{{ end }}
  {{- if not (hasKey $extra "HOME") }}
  - {name: HOME, value: /tmp}
  {{- end }}
  {{- if and .Values.modelCache.enabled (not (hasKey $extra "HF_HOME")) }}
  - {name: HF_HOME, value: /models}
  {{- end }}
  {{- with .Values.extraEnv }}{{ toYaml . | nindent 2 }}{{ end }}
ports:
  - {name: grpc, containerPort: {{ .Values.settings.port }}}
  - {name: http, containerPort: {{ .Values.settings.http_port }}}
lifecycle:
  # Until proxies and DNS have removed this pod, new calls still reach it: keep serving them.
  preStop: {exec: {command: [sleep, {{ .Values.preStopSeconds | quote }}]}}
# Ready: everything is loaded and warmed up. Not ready: it drains.
startupProbe:
  {{- include "midrib.readyProbe" . | nindent 2 }}
  periodSeconds: 5
  failureThreshold: {{ div (add .Values.startupSeconds 4) 5 }}
readinessProbe:
  {{- include "midrib.readyProbe" . | nindent 2 }}
  periodSeconds: 5
# Alive: it answers. A server that drains, or has lost one backbone, must not be killed for that.
livenessProbe:
  httpGet: {path: /healthz, port: http{{ if .Values.tls.secret }}, scheme: HTTPS{{ end }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
resources: {{- include "midrib.resources" . | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: scratch, mountPath: /tmp}
  {{- if .Values.tokens.secret }}
  - {name: tokens, mountPath: /etc/midrib, readOnly: true}
  {{- end }}
  {{- if .Values.tls.secret }}
  - {name: tls, mountPath: /etc/midrib-tls, readOnly: true}
  {{- end }}
  {{- if .Values.modelCache.enabled }}
  - {name: models, mountPath: /models}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}

{{- define "midrib.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if .Values.gpu.count }}
{{- $limits := merge (dict .Values.gpu.resource (toString .Values.gpu.count)) ($resources.limits | default dict) }}
{{- $_ := set $resources "limits" $limits }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "midrib.volumes" -}}
- name: scratch
  emptyDir: {}
{{- if .Values.tokens.secret }}
- name: tokens
  secret: {secretName: {{ .Values.tokens.secret | quote }}}
{{- end }}
{{- if .Values.tls.secret }}
- name: tls
  secret: {secretName: {{ .Values.tls.secret | quote }}}
{{- end }}
{{- if and .Values.modelCache.enabled (not (include "midrib.claimPerPod" .)) }}
- name: models
  persistentVolumeClaim: {claimName: {{ include "midrib.claim" . }}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
