{{/*
The sidecar in one's own pod. In a chart that depends on this one with `shape: sidecar`, where `.` is its own scope:

  metadata:
    labels:
      {{- include "millirank.sidecar.podLabels" .Subcharts.millirank | nindent 6 }}
    annotations:
      {{- include "millirank.sidecar.podAnnotations" .Subcharts.millirank | nindent 6 }}
  spec:
    securityContext:
      {{- include "millirank.sidecar.podSecurityContext" .Subcharts.millirank | nindent 6 }}
    volumes:
      {{- include "millirank.sidecar.volumes" .Subcharts.millirank | nindent 6 }}
    initContainers:
      {{- include "millirank.sidecar.initContainer" .Subcharts.millirank | nindent 6 }}
    containers:
      - name: yours
        env:
          {{- include "millirank.sidecar.env" .Subcharts.millirank | nindent 10 }}
        volumeMounts:
          {{- include "millirank.sidecar.volumeMounts" .Subcharts.millirank | nindent 10 }}
*/}}

{{- define "millirank.sidecar.initContainer" -}}
{{- if ne .Values.shape "sidecar" }}{{ fail "millirank: the sidecar is included in a pod, so set millirank.shape to sidecar" }}{{ end -}}
- {{ include "millirank.container" . | nindent 2 | trim }}
{{- end }}

{{- define "millirank.sidecar.volumes" -}}
{{ include "millirank.volumes" . | trim }}
{{- end }}

{{- define "millirank.sidecar.podSecurityContext" -}}
fsGroup: {{ .Values.socket.fsGroup }}
{{- end }}

{{- define "millirank.sidecar.podLabels" -}}
millirank.io/sidecar: {{ .Release.Name }}
{{- end }}

{{/* Profiles are read again when they change; the configuration is not, so that pods are replaced for it. */}}
{{- define "millirank.sidecar.podAnnotations" -}}
millirank.io/config: {{ .Values.config | sha256sum | trunc 16 | quote }}
{{- end }}

{{- define "millirank.sidecar.env" -}}
- name: MILLIRANK_TARGET
  value: unix:{{ .Values.socket.directory }}/millirank.sock
{{- end }}

{{- define "millirank.sidecar.volumeMounts" -}}
- name: millirank-socket
  mountPath: {{ .Values.socket.directory }}
{{- end }}
