{{/* The container, in both shapes. What they share is said once, so that it can't drift apart. */}}

{{- define "millirank.container" -}}
{{- $sidecar := eq .Values.shape "sidecar" -}}
name: millirank
image: {{ include "millirank.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- if $sidecar }}
# Makes it a native sidecar: up before the application, ended after it, and a Job does not wait for it.
restartPolicy: Always
{{- end }}
env:
  - name: MILLIRANK_MODE
    value: {{ .Values.mode | quote }}
  {{- if $sidecar }}
  - name: MILLIRANK_LISTEN__UNIX
    value: {{ .Values.socket.directory }}/millirank.sock
  - name: MILLIRANK_LISTEN__TCP
    value: ""
  {{- else }}
  - name: MILLIRANK_LISTEN__TCP
    value: "{{ .Values.listenAddress }}:{{ .Values.ports.grpc }}"
  {{- end }}
  - name: MILLIRANK_LISTEN__HEALTH
    value: "{{ .Values.listenAddress }}:{{ .Values.ports.health }}"
  - name: MILLIRANK_LISTEN__METRICS
    value: "{{ .Values.listenAddress }}:{{ .Values.ports.metrics }}"
  - name: MILLIRANK_PROFILES
    value: '["/etc/millirank/profiles"]'
  {{- if .Values.config }}
  - name: MILLIRANK_CONFIG
    value: /etc/millirank/config/millirank.toml
  {{- end }}
  {{- if and (not $sidecar) .Values.tls.secretName }}
  - name: MILLIRANK_LISTEN__TLS__CERTIFICATE
    value: /etc/millirank/tls/tls.crt
  - name: MILLIRANK_LISTEN__TLS__KEY
    value: /etc/millirank/tls/tls.key
  - name: MILLIRANK_LISTEN__TLS__CLIENT_CA
    value: /etc/millirank/tls/ca.crt
  {{- end }}
  {{- with .Values.telemetry.otlpEndpoint }}
  - name: OTEL_EXPORTER_OTLP_ENDPOINT
    value: {{ . | quote }}
  # Metrics are scraped.
  - name: OTEL_METRICS_EXPORTER
    value: none
  {{- end }}
  - name: OTEL_SERVICE_NAME
    value: {{ .Values.telemetry.serviceName | quote }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  {{- if not $sidecar }}
  - name: grpc
    containerPort: {{ .Values.ports.grpc }}
  {{- end }}
  - name: mr-health
    containerPort: {{ .Values.ports.health }}
  - name: mr-metrics
    containerPort: {{ .Values.ports.metrics }}
# All three pass as soon as first-stage order can be answered: a slow model never delays or unreadies a pod.
startupProbe:
  grpc:
    port: {{ .Values.ports.health }}
  periodSeconds: 1
  timeoutSeconds: 1
  failureThreshold: 60
readinessProbe:
  grpc:
    port: {{ .Values.ports.health }}
  periodSeconds: 5
  timeoutSeconds: 1
livenessProbe:
  grpc:
    port: {{ .Values.ports.health }}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 6
{{- if not $sidecar }}
lifecycle:
  # Until every client has heard that this pod goes, it answers as before; then it drains.
  preStop:
    sleep:
      seconds: 5
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
volumeMounts:
  {{- if $sidecar }}
  - name: millirank-socket
    mountPath: {{ .Values.socket.directory }}
  {{- end }}
  # The folder, not its files: a file mounted by subPath never changes again.
  - name: millirank-profiles
    mountPath: /etc/millirank/profiles
    readOnly: true
  {{- if .Values.config }}
  - name: millirank-config
    mountPath: /etc/millirank/config
    readOnly: true
  {{- end }}
  {{- if and (not $sidecar) .Values.tls.secretName }}
  - name: millirank-tls
    mountPath: /etc/millirank/tls
    readOnly: true
  {{- end }}
  {{- with .Values.volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "millirank.volumes" -}}
{{- $sidecar := eq .Values.shape "sidecar" -}}
{{- if $sidecar }}
- name: millirank-socket
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- end }}
# Optional: without it the built-in profile decides until it appears.
- name: millirank-profiles
  configMap:
    name: {{ include "millirank.profilesConfigMap" . }}
    optional: true
{{- if .Values.config }}
- name: millirank-config
  configMap:
    name: {{ include "millirank.name" . }}-config
{{- end }}
{{- if and (not $sidecar) .Values.tls.secretName }}
- name: millirank-tls
  secret:
    secretName: {{ .Values.tls.secretName }}
    defaultMode: 0440
{{- end }}
{{- with .Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
