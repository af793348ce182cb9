{{/* Fails for values with which the server does not start, or never becomes ready. The schema cannot explain these. */}}
{{- define "midrib.check" -}}
{{- if not (or .Values.tokens.secret .Values.tls.secret .Values.settings.insecure) }}
{{- fail "tokens.secret and tls.secret are empty, so that anybody may call: set one of them, or settings.insecure=true" }}
{{- end }}
{{- include "midrib.checkSettings" .Values.settings }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas is %d, expected at most maxReplicas, which is %d" (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.tokens.secret (not .Values.serviceMonitor.tokenSecret) }}
{{- fail "serviceMonitor.tokenSecret is empty, but /metrics needs a token because tokens.secret is set: name a secret with a token of scope read" }}
{{- end }}
{{- range $label := list "app.kubernetes.io/name" "app.kubernetes.io/instance" }}
{{- if hasKey ($.Values.podLabels | default dict) $label }}
{{- fail (printf "podLabels sets %s, by which the Service selects the pods: use another label" $label) }}
{{- end }}
{{- end }}
{{- range $label, $_ := include "midrib.labels" . | fromYaml }}
{{- if hasKey ($.Values.serviceMonitor.labels | default dict) $label }}
{{- fail (printf "serviceMonitor.labels sets %s, which the chart sets: use another label" $label) }}
{{- end }}
{{- end }}
{{- include "midrib.checkResources" .Values.resources }}
{{- include "midrib.checkVariables" . }}
{{- include "midrib.checkVolumes" . }}
{{- end }}

{{/* Kubernetes makes no pod that requests more than its limit. */}}
{{- define "midrib.checkResources" -}}
{{- range $name, $limit := .limits }}
{{- $request := get ($.requests | default dict) $name }}
{{- if gt (include "midrib.quantity" $request | float64) (include "midrib.quantity" $limit | float64) }}
{{- fail (printf "resources.requests.%s is %v, expected at most resources.limits.%s, which is %v" $name $request $name $limit) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The number of a quantity such as 8Gi, .5 or 500m. */}}
{{- define "midrib.quantity" -}}
{{- $number := regexFind "^[0-9.]+([eE][+-]?[0-9]+)?" (toString .) }}
{{- $factors := dict "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 }}
{{- range $index, $suffix := list "Ki" "Mi" "Gi" "Ti" "Pi" "Ei" }}
{{- $_ := set $factors $suffix (printf "0x1p%d" (mul 10 (add 1 $index)) | float64) }}
{{- end }}
{{- mulf ($number | float64) (get $factors (trimPrefix $number (toString .)) | default 1.0) }}
{{- end }}

{{/* Of the settings alone. */}}
{{- define "midrib.checkSettings" -}}
{{- if .tls_client_ca }}
{{- fail (printf "settings.tls_client_ca is %q, but the kubelet's probes have no certificate: use tokens, or a mesh for mutual TLS" .tls_client_ca) }}
{{- end }}
{{- range $name, $value := dict "tokens" "tokens.secret" "tls_certificate" "tls.secret" "tls_key" "tls.secret" }}
{{- if hasKey $ $name }}
{{- fail (printf "settings.%s is the path of a file that the pod does not have: name a secret in %s" $name $value) }}
{{- end }}
{{- end }}
{{- if or (has .host (list "localhost" "::1")) (hasPrefix "127." .host) }}
{{- fail (printf "settings.host is %q, but probes and clients call the pod's address: use 0.0.0.0" .host) }}
{{- end }}
{{- if not .backbones }}
{{- fail "settings.backbones is empty, so that the server does not start: name a backbone" }}
{{- end }}
{{- if eq (toString .public_health) "false" }}
{{- fail "settings.public_health is false, but the kubelet's probes have no token: remove it" }}
{{- end }}
{{- if eq (int .port) (int .http_port) }}
{{- fail (printf "settings.port and settings.http_port are both %d, expected two ports" (int .port)) }}
{{- end }}
{{- if has (int .admin_port) (list (int .port) (int .http_port)) }}
{{- fail (printf "settings.admin_port is %d, expected another port than settings.port and settings.http_port" (int .admin_port)) }}
{{- end }}
{{- end }}

{{/* Kubernetes would use the last of two variables with the same name. */}}
{{- define "midrib.checkVariables" -}}
{{- $names := list }}
{{- range include "midrib.env" . | fromYamlArray }}{{ $names = append $names .name }}{{ end }}
{{- range .Values.extraEnv }}
{{- if has .name $names }}
{{- fail (printf "extraEnv sets %s a second time: remove it from extraEnv, or from settings, tokens or tls" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- end }}

{{/* Names and paths must be unique, and every mount needs its volume. */}}
{{- define "midrib.checkVolumes" -}}
{{- $volumes := list "scratch" }}
{{- $paths := list "/tmp" }}
{{- if .Values.tokens.secret }}{{ $volumes = append $volumes "tokens" }}{{ $paths = append $paths "/etc/midrib" }}{{ end }}
{{- if .Values.tls.secret }}{{ $volumes = append $volumes "tls" }}{{ $paths = append $paths "/etc/midrib-tls" }}{{ end }}
{{- if .Values.modelCache.enabled }}{{ $volumes = append $volumes "models" }}{{ $paths = append $paths "/models" }}{{ end }}
{{- range .Values.extraVolumes }}
{{- if has .name $volumes }}
{{- fail (printf "extraVolumes has a volume %s, a name that is in use: choose another name than %s" .name (join ", " $volumes)) }}
{{- end }}
{{- $volumes = append $volumes .name }}
{{- end }}
{{- range .Values.extraVolumeMounts }}
{{- if not (has .name $volumes) }}
{{- fail (printf "extraVolumeMounts mounts the volume %s, which does not exist: add it to extraVolumes" .name) }}
{{- end }}
{{- if has .mountPath $paths }}
{{- fail (printf "extraVolumeMounts mounts %s, which has a volume already: choose another path than %s" .mountPath (join ", " $paths)) }}
{{- end }}
{{- $paths = append $paths .mountPath }}
{{- end }}
{{- end }}
