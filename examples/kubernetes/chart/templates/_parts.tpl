{{- /* What several templates say. */}}
{{- define "pod" -}}
enableServiceLinks: false
securityContext: {runAsNonRoot: true, runAsUser: {{ int .Values.runAsUser }}, runAsGroup: {{ int .Values.runAsUser }}, seccompProfile: {type: RuntimeDefault}}
{{ with .Values.pod }}{{ toYaml . }}{{ end }}
{{- end }}

{{- define "spread" -}}
topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: {{ quote . }}}}}
{{- end }}

{{- define "confined" }}{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}{{ end }}

{{- define "disruption" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: {{ quote . }}}
spec: {maxUnavailable: 1, unhealthyPodEvictionPolicy: AlwaysAllow, selector: {matchLabels: {app: {{ quote . }}}}}
{{- end }}

{{- define "url" -}}
- {name: STATEFUL_ROUTE_URL, valueFrom: {secretKeyRef: {name: {{ .Values.redis.secret | default .Release.Name | quote }}, key: {{ quote .Values.redis.key }}}}}
{{ with .Values.namespace }}- {name: STATEFUL_ROUTE_NAMESPACE, value: {{ quote . }}}{{ end }}
{{- end }}
{{- define "secret" -}}
- {name: STATEFUL_ROUTE_SECRET, valueFrom: {secretKeyRef: {name: {{ .Values.peers.secret | default .Release.Name | quote }}, key: {{ quote .Values.peers.key }}}}}
{{- end }}

{{- /* The longest end of a pod of the app, in seconds, and its grace period, with 9 s to spare. */}}
{{- define "longest" }}
{{- with .Values.drain }}{{ add .preStopSeconds .deadlineSeconds 1 (mul .shutdownSeconds (ternary 2 1 $.Values.run.enabled)) .stopSeconds }}{{ end }}
{{- end }}
{{- define "grace" }}{{ .Values.drain.graceSeconds | int | default (add (include "longest" .) 9) }}{{ end }}

{{- /* What values.schema.json cannot say. */}}
{{- define "check" }}
{{- $grace := int .Values.drain.graceSeconds }}
{{- $longest := include "longest" . | int }}
{{- if and $grace (lt $grace $longest) }}{{ fail (printf "drain.graceSeconds: %d is less than the %d that the end of a pod can take: raise it, or leave it at 0" $grace $longest) }}{{ end }}
{{- if eq (int .Values.port) (int .Values.peerPort) }}{{ fail (printf "peerPort: %d is also port: the two have to differ" (int .Values.port)) }}{{ end }}
{{- if and (not .Values.run.enabled) (eq "uvicorn" (first .Values.command)) (not (has "--timeout-graceful-shutdown" .Values.command)) }}{{ fail "command: uvicorn without --timeout-graceful-shutdown waits for ever while a connection is open" }}{{ end }}
{{- range concat .Values.env .Values.gateway.env }}
{{- if regexMatch "^STATEFUL_ROUTE_(URL|SECRET|NAMESPACE|PEER_LISTEN|INDEX_IS_EXCLUSIVE|LIFE_DIR|DRAIN_DEADLINE|STOP_DEADLINE)$" .name }}{{ fail (printf "env: %s follows from redis, peers, namespace, peerPort, kind, provenDeaths or drain: set that" .name) }}{{ end }}
{{- end }}
{{- with .Values.autoscaler }}{{ if gt (int .minReplicas) (int .maxReplicas) }}{{ fail (printf "autoscaler.minReplicas: %d is more than maxReplicas, %d" (int .minReplicas) (int .maxReplicas)) }}{{ end }}{{ end }}
{{- if contains "." .Release.Name }}{{ fail (printf "the name of the release, %s, has a dot: a Service has its name, and cannot have one" .Release.Name) }}{{ end }}
{{- end }}
